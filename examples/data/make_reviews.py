#!/usr/bin/env python3
"""Write reviews.parquet and reviews.csv: made-up reviews of hotels, films and things.

    python make_reviews.py [FOLDER]          # default: the folder of this script

Every sentence below was written for this file and may be used freely. The rows put them
together at random with a fixed seed, so that the tables are always the same. They hold what
real tables hold: texts of one word and of three hundred, sixteen languages, emoji, quotes,
commas and line breaks inside a text, repeated texts, empty and blank texts, and nulls.

Columns: id int64 (from 1, no gaps), lang string, stars int32 (null when not given),
created date32, text string (nullable).

In the CSV a null is an empty field without quotes; a text is always quoted, the empty one too.

Needs: pyarrow.
"""
import datetime
import os
import random
import sys

import pyarrow as pa
import pyarrow.parquet as pq

SEED = 20261124
ENGLISH, EACH_OTHER = 1450, 72  # rows in English, and in each other language

# English sentences take names and details from these lists, so that they vary more.
SLOTS = {
    "hotel": ["The hotel", "This guesthouse", "The little inn by the harbour", "The hostel", "The lodge", "Our apartment"],
    "film": ["The film", "This documentary", "The sequel", "The comedy", "This thriller", "The animated feature"],
    "thing": ["The kettle", "This backpack", "The lamp", "The bicycle pump", "The keyboard", "The tent", "This coffee grinder",
              "The raincoat", "The headphones case", "The pocket radio"],
    "city": ["Lisbon", "Kraków", "Valparaíso", "Osaka", "Tromsø", "Marrakesh", "Ghent", "Dunedin"],
    "person": ["my sister", "an old friend", "our neighbour", "my grandfather", "my nephew", "a colleague"],
    "time": ["last spring", "in the first week of May", "on a rainy Tuesday", "over the holidays", "at the end of October", "twice this year"],
    "number": ["two", "three", "four", "seven", "eleven", "twenty"],
}

ENGLISH_PARTS = {
    "hotel": {
        "good": ["{hotel} in {city} was quiet, bright and very clean.", "Breakfast was served until noon and the bread was still warm.",
                 "The woman at the desk drew us a map and told us where to swim.", "From the window we could see the boats come in at dusk.",
                 "We stayed {number} nights {time} and would have liked to stay longer.", "The bed was firm, the towels were thick, and nobody woke us.",
                 "They kept our luggage for the whole day without asking for money.", "Even at midnight somebody answered the phone and brought us an extra blanket.",
                 "The garden behind the house is the best place in {city} to read a book."],
        "bad": ["{hotel} smelled of paint and the lift did not work.", "The room was so small that we had to open the suitcase in the corridor.",
                "Hot water came for ten minutes in the morning, and never in the evening.", "A bar below our window played the same {number} songs until four.",
                "They charged us for a minibar that was empty when we arrived.", "The photos on the website must have been taken {number} years ago.",
                "We asked {number} times for clean sheets and then gave up.", "There were ants in the bathroom and dust under the bed."],
    },
    "film": {
        "good": ["{film} is slow at first, and then you cannot look away.", "The two leads hardly speak, and still you understand everything.",
                 "I laughed out loud {number} times, and {person} cried at the end.", "Every frame looks like a painting in the last light of the day.",
                 "The music stays with you on the way home.", "I watched it {time} with {person}, and we talked about it until late.",
                 "A small story, told with patience and great care.", "The villain is the most human person in the whole story."],
        "bad": ["{film} is two hours long and feels like {number}.", "The plot has a hole big enough to drive a bus through.",
                "Nobody in it speaks the way that people speak.", "I looked at my watch {number} times before the interval.",
                "The trailer shows every good scene, and there are only {number} of them.", "The sound was so loud that {person} left the cinema.",
                "It wants to be clever and forgets to be interesting.", "The ending explains everything that we had understood an hour before."],
    },
    "thing": {
        "good": ["{thing} arrived a day early and in perfect condition.", "I have used it every day {time}, and it still looks new.",
                 "It is lighter than I expected and does exactly what it promises.", "The instructions fit on one page, and a child could follow them.",
                 "I bought one for {person} too, and now everybody wants one.", "The battery lasts for {number} days, which is more than the box says.",
                 "When a screw was missing they sent me a whole bag of them, free of charge.", "Worth every penny, and it does not wake the cat."],
        "bad": ["{thing} broke after {number} days.", "The colour is not the one in the picture: I ordered blue and got a sad grey.",
                "It makes a noise like a mosquito in a tin can.", "Nobody answers the telephone, and the e-mail address does not exist.",
                "I sent it back {time} and am still waiting for my money.", "The zip came off in my hand when I opened the parcel.",
                "It is heavy, it leaks, and {person} hates it.", "The box was open and {number} parts were missing."],
    },
    # what fits good, bad and middling reviews
    "close": (["I would recommend it to anybody.", "I will come back, perhaps with {person}.", "Thank you!", "All in all a good choice for the price."],
              ["Never again.", "You have been warned.", "I want my money back.", "Ask questions before you pay."],
              ["Not bad, not great, simply fine.", "I am still not sure what to think of it.", "You get what you pay for.", "It took {number} days to decide on these stars."]),
    "short": (["Good.", "Perfect!", "Five stars from {person}", "Loved it ❤️", "Great value, thanks 👍"],
              ["Disappointing", "Terrible", "No, thank you.", "Avoid", "Why?"],
              ["ok", "Meh", "Fine, I guess.", "It is what it is", "Average"]),
}

# language: (hotel, film, thing), each (good, bad); then closing sentences (good, bad, middling);
# then short texts (good, middling, good, bad)
OTHERS = {
    "de": ((("Das Zimmer war hell, ruhig und sehr sauber.", "Zum Frühstück gab es warmes Brot und selbst gemachte Marmelade.", "Vom Balkon aus sieht man abends die Fischerboote."),
            ("Die Heizung ließ sich nicht abstellen, und das Fenster klemmte.", "Für den Parkplatz wollten sie plötzlich zwölf Euro extra.", "Nachts fuhr alle zehn Minuten eine Straßenbahn vorbei.")),
           (("Ein leiser Film, der lange nachklingt.", "Die Hauptdarstellerin spielt großartig, ohne ein Wort zu viel.", "Meine Großmutter hat gelacht und geweint."),
            ("Nach einer halben Stunde wusste ich, wie es ausgeht.", "Die Dialoge klingen wie aus einer Gebrauchsanweisung.", "Leider viel zu laut und viel zu lang.")),
           (("Kam schnell an und funktioniert tadellos.", "Die Verarbeitung ist überraschend gut für diesen Preis.", "Der Rucksack hält auch bei starkem Regen dicht."),
            ("Schon nach drei Tagen war der Griff ab.", "Die Farbe stimmt nicht mit dem Bild überein.", "Der Kundendienst hat auf keine meiner Nachrichten geantwortet.")),
           ("Gerne wieder!", "Das Geld kann man sich sparen.", "Insgesamt in Ordnung, mehr aber auch nicht."), ("Prima", "Na ja …", "Sehr schön 😊", "Geht so")),
    "fr": ((("La chambre donnait sur une cour calme et fleurie.", "L’accueil était chaleureux, même à deux heures du matin.", "Le petit déjeuner vaut à lui seul le voyage."),
            ("L’eau chaude n’est jamais arrivée jusqu’à notre étage.", "On entendait la télévision du voisin comme si elle était chez nous.", "La photo du site montre une autre maison.")),
           (("Un film simple et lumineux, porté par deux acteurs magnifiques.", "J’ai ri, puis j’ai pleuré, puis j’ai ri de nouveau.", "La dernière scène est d’une beauté rare."),
            ("Deux heures d’ennui et une fin ridicule.", "Le scénario tient sur un ticket de métro.", "La musique couvre les dialogues du début à la fin.")),
           (("Reçu en deux jours, emballage soigné.", "La lampe éclaire très bien et ne chauffe pas.", "Solide, légère et facile à nettoyer."),
            ("Le couvercle s’est cassé dès la première semaine.", "Il manquait une vis et la notice était illisible.", "La couleur n’a rien à voir avec la photo.")),
           ("Je recommande vivement.", "Très déçue, je l’ai renvoyé.", "Correct, sans plus."), ("Parfait !", "Bof", "Merci beaucoup 🙏", "À éviter")),
    "es": ((("La habitación era amplia y tenía una vista preciosa al mar.", "El personal nos trató como si fuéramos de la familia.", "¡El desayuno con fruta fresca fue lo mejor del viaje!"),
            ("El aire acondicionado goteaba sobre la cama.", "Había tanto ruido en la calle que no pudimos dormir.", "Nos cobraron dos veces la misma noche.")),
           (("Una película pequeña con un corazón enorme.", "La fotografía es tan buena que dan ganas de pararla en cada plano.", "Los niños no se movieron del asiento."),
            ("Promete mucho y no cuenta nada.", "¿De verdad hacían falta tres horas para esto?", "Los chistes ya eran viejos cuando yo era niño.")),
           (("Llegó antes de lo previsto y en perfecto estado.", "La cafetera es rápida, silenciosa y muy bonita.", "Lo uso todos los días desde enero y sigue como nuevo."),
            ("Dejó de funcionar a la semana.", "Las instrucciones vienen en un idioma que nadie conoce.", "Pedí el azul y me mandaron el marrón.")),
           ("Volveré sin dudarlo.", "No lo compren.", "Está bien para lo que cuesta."), ("Genial", "Regular", "¡Me encanta! 😍", "Un desastre")),
    "it": ((("La camera era luminosa e il letto comodissimo.", "La signora alla reception ci ha prestato due biciclette.", "Dal terrazzo si vede tutta la città vecchia."),
            ("Il bagno era sporco e la doccia perdeva acqua.", "Per dormire abbiamo dovuto tenere chiuse le finestre.", "Il prezzo non era quello della prenotazione.")),
           (("Un film delicato, che non alza mai la voce.", "La colonna sonora è un personaggio a sé.", "Mio fratello lo ha già visto tre volte."),
            ("La storia non parte mai davvero.", "Gli attori sembrano leggere la lista della spesa.", "Il finale è la cosa peggiore di tutto il film.")),
           (("Spedizione veloce e ottima qualità.", "Pesa poco e sta comodamente nello zaino.", "Funziona perché è semplice."),
            ("Si è rotto al primo utilizzo.", "La cerniera si blocca ogni volta.", "Ho scritto quattro volte e nessuno ha risposto.")),
           ("Lo consiglio a tutti.", "Soldi buttati.", "Né bene né male."), ("Ottimo", "Così così", "Bellissimo ✨", "Pessimo")),
    "pt": ((("O quarto tinha uma varanda com vista para o rio.", "Fomos recebidos com café e bolo de laranja.", "A praia fica a cinco minutos a pé."),
            ("O colchão era duro e as paredes finas como papel.", "Não havia água quente de manhã.", "A recepção fecha às oito e ninguém nos avisou.")),
           (("Um filme cheio de silêncio e de luz.", "A atriz principal merece todos os prêmios.", "Saí do cinema com vontade de ligar para a minha mãe."),
            ("Confuso, barulhento e sem graça.", "O livro é muito melhor.", "Adormeci antes da metade.")),
           (("Chegou rápido e bem embalado.", "A mochila é leve e cabe tudo.", "Já comprei outra para o meu irmão."),
            ("A tampa não fecha e vaza por todo lado.", "Veio com defeito e a troca demorou um mês.", "O tamanho não corresponde à descrição.")),
           ("Recomendo!", "Não vale o preço.", "É razoável, nada de especial."), ("Ótimo", "Mais ou menos", "Adorei 💛", "Péssimo")),
    "nl": ((("De kamer was schoon en het uitzicht op de gracht prachtig.", "Bij het ontbijt kregen we verse broodjes en sterke koffie.", "De eigenaar bracht ons zelf naar het station."),
            ("Het rook er naar verf en het raam kon niet open.", "De trap is zo steil dat mijn vader beneden moest wachten.", "We betaalden extra voor handdoeken.")),
           (("Een rustige film waar je nog dagen aan denkt.", "Prachtig gefilmd en heel goed gespeeld.", "Zelfs mijn broer bleef wakker."),
            ("Het verhaal gaat nergens heen.", "Te lang, te luid, te veel.", "Na een uur ben ik weggelopen.")),
           (("Snel geleverd en precies zoals beschreven.", "De fietspomp is klein maar sterk.", "Gebruik hem elke dag."),
            ("Na een week al kapot.", "De verkeerde kleur ontvangen.", "De handleiding ontbreekt.")),
           ("Een aanrader.", "Zonde van het geld.", "Prima voor deze prijs."), ("Goed", "Mwah", "Top 👌", "Slecht")),
    "pl": ((("Pokój był czysty, cichy i pachniał drewnem.", "Gospodyni częstowała nas domowym ciastem.", "Z okna widać całe jezioro."),
            ("Łóżko skrzypiało przy każdym ruchu.", "Wi-Fi działało tylko na korytarzu.", "Za śniadanie trzeba było dopłacić.")),
           (("Piękny film o zwykłych ludziach.", "Muzyka i zdjęcia tworzą jedną całość.", "Śmialiśmy się i płakaliśmy na przemian."),
            ("Nudny od pierwszej do ostatniej minuty.", "Żart goni żart, a nikt się nie śmieje.", "Zakończenie nie ma sensu.")),
           (("Przesyłka dotarła następnego dnia.", "Czajnik jest cichy i szybko gotuje wodę.", "Świetna jakość za rozsądną cenę."),
            ("Zepsuł się po trzech dniach.", "Brakowało części, a sklep milczy.", "Kolor zupełnie inny niż na zdjęciu.")),
           ("Polecam z całego serca.", "Szkoda pieniędzy.", "Może być."), ("Super", "Średnie", "Dziękuję 🌸", "Słabo")),
    "tr": ((("Oda tertemizdi ve denize bakıyordu.", "Kahvaltıda her sabah taze ekmek vardı.", "Çalışanlar çok güler yüzlüydü."),
            ("Klima bütün gece gürültü yaptı.", "Banyo küçüktü ve su soğuktu.", "Fotoğraflarla ilgisi yok.")),
           (("Sade, içten ve çok güzel bir film.", "Oyunculuklar olağanüstüydü.", "Sonunda bütün salon alkışladı."),
            ("İlk yarım saatten sonra uyumuşum.", "Hikâye bir yere varmıyor.", "Müzik konuşmaları bastırıyor.")),
           (("Ürün iki günde geldi, paketleme özenliydi.", "Çanta hem hafif hem de sağlam.", "Işığı çok güzel, ısınmıyor."),
            ("Bir hafta sonra bozuldu.", "Yanlış renk gönderdiler.", "Müşteri hizmetlerine ulaşamadım.")),
           ("Kesinlikle tavsiye ederim.", "Paranıza yazık.", "İdare eder."), ("Harika", "Eh işte", "Çok teşekkürler 🌷", "Berbat")),
    "ru": ((("Номер был чистый, тихий и очень светлый.", "Хозяйка угостила нас пирогом с яблоками.", "Из окна видно реку и старый мост."),
            ("Горячей воды не было два дня.", "Стены тонкие, слышно каждое слово соседей.", "За парковку взяли отдельную плату.")),
           (("Тихий и очень добрый фильм.", "Актёры играют так, что забываешь о кино.", "После сеанса долго не хотелось говорить."),
            ("Скучно, длинно и предсказуемо.", "Сюжет разваливается уже в начале.", "Ушли через час и не пожалели.")),
           (("Пришло быстро, упаковано хорошо.", "Лампа светит ярко и не нагревается.", "Пользуюсь каждый день, всё отлично."),
            ("Сломалось на третий день.", "Цвет совсем не такой, как на фото.", "Поддержка не отвечает уже неделю.")),
           ("Советую всем.", "Деньги на ветер.", "В целом нормально."), ("Отлично!", "Так себе", "Спасибо 🙂", "Ужас")),
    "el": ((("Το δωμάτιο ήταν καθαρό και ήσυχο, με θέα στο λιμάνι.", "Μας πρόσφεραν φρέσκα σύκα από τον κήπο.", "Η παραλία είναι πέντε λεπτά με τα πόδια."),
            ("Το ντους έσταζε όλη τη νύχτα.", "Πληρώσαμε δύο φορές για το ίδιο πρωινό.", "Το κρεβάτι ήταν πολύ μικρό.")),
           (("Μια ταινία γεμάτη φως και σιωπή.", "Οι ηθοποιοί είναι εξαιρετικοί.", "Γελάσαμε και κλάψαμε μαζί."),
            ("Βαρετή από την αρχή ως το τέλος.", "Το σενάριο δεν έχει νόημα.", "Έφυγα στη μέση.")),
           (("Ήρθε γρήγορα και σε άριστη κατάσταση.", "Πολύ καλή ποιότητα για την τιμή της.", "Το χρησιμοποιώ κάθε μέρα."),
            ("Χάλασε σε μία εβδομάδα.", "Έστειλαν λάθος χρώμα.", "Κανείς δεν απαντά στο τηλέφωνο.")),
           ("Το συνιστώ ανεπιφύλακτα.", "Κρίμα τα λεφτά.", "Εντάξει, τίποτα το ιδιαίτερο."), ("Τέλειο", "Μέτριο", "Ευχαριστώ 💙", "Απαράδεκτο")),
    "ar": ((("كانت الغرفة نظيفة وهادئة وتطل على البحر.", "استقبلونا بالشاي والتمر بعد رحلة طويلة.", "الإفطار متنوع والخبز طازج كل صباح."),
            ("لم يكن هناك ماء ساخن طوال اليوم.", "الضوضاء في الشارع لا تتوقف حتى الفجر.", "السعر أعلى مما اتفقنا عليه.")),
           (("فيلم بسيط وجميل يبقى في الذاكرة.", "أداء الممثلة الرئيسية رائع جدًا.", "ضحكنا وبكينا في الليلة نفسها."),
            ("قصة ضعيفة ونهاية متوقعة.", "الموسيقى أعلى من الحوار.", "خرجت من القاعة قبل النهاية.")),
           (("وصل المنتج بسرعة وبحالة ممتازة.", "الحقيبة خفيفة ومتينة.", "أستخدمه كل يوم دون أي مشكلة."),
            ("تعطل بعد ثلاثة أيام.", "اللون مختلف عن الصورة.", "لا أحد يرد على الرسائل.")),
           ("أنصح به الجميع.", "لا يستحق الثمن.", "مقبول بهذا السعر."), ("ممتاز", "عادي", "شكرًا جزيلًا 🌹", "سيئ")),
    "he": ((("החדר היה נקי, שקט ומואר.", "קיבלו אותנו עם קפה ועוגה.", "מהמרפסת רואים את כל המפרץ."),
            ("המזגן הרעיש כל הלילה.", "לא היו מים חמים בבוקר.", "חייבו אותנו פעמיים.")),
           (("סרט קטן עם לב גדול.", "המשחק נפלא והצילום מרהיב.", "סבתא שלי צחקה ובכתה."),
            ("ארוך מדי ומשעמם מאוד.", "העלילה לא הולכת לשום מקום.", "הסוף פשוט מגוחך.")),
           (("הגיע מהר וארוז היטב.", "קל, חזק ונוח לשימוש.", "משתמש בו כל יום."),
            ("התקלקל אחרי שבוע.", "קיבלתי צבע אחר לגמרי.", "אין עם מי לדבר.")),
           ("מומלץ בחום.", "חבל על הכסף.", "סביר בהחלט."), ("מעולה", "ככה ככה", "תודה רבה 🙏", "גרוע")),
    "hi": ((("कमरा साफ़, शांत और रोशनी से भरा था।", "सुबह का नाश्ता गरम और स्वादिष्ट था।", "खिड़की से पूरी झील दिखाई देती है।"),
            ("गरम पानी केवल दस मिनट के लिए आता था।", "रात भर सड़क का शोर सुनाई देता रहा।", "बिल में एक रात ज़्यादा जोड़ दी गई।")),
           (("एक सरल और सुंदर फ़िल्म।", "कलाकारों का अभिनय कमाल का है।", "घर लौटते समय भी संगीत मन में बजता रहा।"),
            ("कहानी बहुत धीमी और कमज़ोर है।", "अंत पहले से ही पता था।", "आधी फ़िल्म में ही नींद आ गई।")),
           (("सामान समय से पहले पहुँच गया।", "हल्का, मज़बूत और दाम में सही।", "रोज़ इस्तेमाल करता हूँ, कोई शिकायत नहीं।"),
            ("तीन दिन में ही टूट गया।", "रंग तस्वीर जैसा नहीं है।", "कोई फ़ोन नहीं उठाता।")),
           ("सबको सलाह दूँगा।", "पैसे की बर्बादी।", "ठीक-ठाक है।"), ("बहुत बढ़िया", "ठीक है", "धन्यवाद 🙏", "बेकार")),
    "zh": ((("房间干净安静，窗外就是大海。", "老板娘送了我们一碗热汤。", "早餐很丰富，面包还是热的。"),
            ("隔音很差，半夜还能听到楼下唱歌。", "热水只有十分钟。", "照片和实际完全不一样。")),
           (("一部安静而温暖的电影。", "两位主角几乎不说话，却什么都说清楚了。", "看完以后和朋友聊到了很晚。"),
            ("剧情拖沓，结局可笑。", "配乐太吵，听不清台词。", "看了一半就睡着了。")),
           (("第二天就到了，包装很仔细。", "又轻又结实，价格也合理。", "用了半年，还像新的一样。"),
            ("用了三天就坏了。", "颜色和图片不符。", "客服一直不回消息。")),
           ("强烈推荐！", "浪费钱。", "一般般，对得起价格。"), ("不错", "还行", "谢谢👍", "差评")),
    "ja": ((("部屋は明るくて静かで、とても清潔でした。", "朝ごはんの焼きたてのパンがおいしかったです。", "窓から港の船が見えました。"),
            ("お湯が十分しか出ませんでした。", "隣の部屋の声が全部聞こえます。", "写真とまったく違う部屋でした。")),
           (("静かで、心に残る映画でした。", "主役の二人の演技がすばらしい。", "帰り道もずっと音楽が頭の中で鳴っていました。"),
            ("長すぎて途中で寝てしまいました。", "結末がすぐに分かってしまう。", "音が大きすぎます。")),
           (("翌日に届き、梱包も丁寧でした。", "軽くて丈夫で、値段も手ごろです。", "毎日使っていますが、まだ新品のようです。"),
            ("三日で壊れました。", "色が写真と違います。", "問い合わせても返事がありません。")),
           ("おすすめです。", "もう買いません。", "値段相応だと思います。"), ("最高", "ふつう", "ありがとう😊", "残念")),
    "ko": ((("방이 밝고 조용하고 아주 깨끗했어요.", "아침마다 갓 구운 빵이 나왔습니다.", "창문 너머로 항구가 보입니다."),
            ("뜨거운 물이 십 분밖에 안 나왔어요.", "밤새 옆방 소리가 들렸습니다.", "사진과 너무 다릅니다.")),
           (("조용하지만 오래 남는 영화입니다.", "배우들의 연기가 정말 훌륭해요.", "집에 오는 길에도 음악이 계속 생각났어요."),
            ("너무 길고 지루했습니다.", "결말이 처음부터 보여요.", "중간에 나왔습니다.")),
           (("다음 날 바로 도착했고 포장도 꼼꼼했어요.", "가볍고 튼튼하고 가격도 좋아요.", "매일 쓰는데 아직도 새것 같아요."),
            ("사흘 만에 고장 났습니다.", "색이 사진과 달라요.", "문의해도 답이 없습니다.")),
           ("강력 추천합니다.", "돈이 아까워요.", "가격만큼은 합니다."), ("최고예요", "그냥 그래요", "감사합니다 🙇", "별로")),
}

# Texts as they come in, whatever the language says they are.
ODD = [
    "", " ", "   ", "\n", "\t \t",
    'She said "never again", and then: "well, perhaps".', "Line one\nline two\r\nline three, with a comma", '"quoted from start to end"',
    "semi;colon, comma and\ttab", "trailing comma,", "a \\ backslash and a 'single quote'", "100%", "42", "3.14159", "-1", "null", "NULL", "NaN", "true",
    "🙂", "👩‍👩‍👧‍👦 stayed here 🇵🇹🏖️", "👍🏽👍🏽👍🏽", "⭐⭐⭐⭐☆", "¯\\_(ツ)_/¯", "<b>bold</b> claim &amp; a <br/> break", "see https://example.org/reviews?id=7&lang=en#top",
    "mail me: guest.217@example.com", "#cosy #clean @thehost", "SOOOOO goooooood!!!!!!!!", "WHY IS NOBODY TALKING ABOUT THE SHOWER", "no vowels: hmmmmm, pfff, brrr",
    "[MASK] was the best part of the [CLS] night", "<s>old style</s> <pad> <mask>", "naïve café déjà-vu, Ångström, façade, señor", "cafe\u0301 with a combining accent",
    "zero\u200bwidth\u200bspaces", "non\u00a0breaking\u00a0space", "soft\u00adhyphen", "\ufeffbyte order mark first", "ﬁne ligature, ½ price, № 5, ™",
    "Ｆｕｌｌ　ｗｉｄｔｈ", "mixed English и русский 和中文 مع العربية in one line", "right-to-left: שלום world", "ǅungla, İstanbul, ẞ, ŉ",
    "Donaudampfschifffahrtsgesellschaftskapitänskajütenschlüssel " * 2, "a" * 150, "ha" * 90, "1,299.00 € / 1.299,00 $ / ₹1,29,900 / ¥12,000",
    "2024-02-29T23:59:60Z", "{\"stars\": 4, \"text\": \"as JSON\"}", "- first\n- second\n- third", "...", "?!", "—", "’", "no.", "No", "NO!",
]


def fill(rng, sentence):
    for slot, choices in SLOTS.items():
        if "{" + slot + "}" in sentence:
            sentence = sentence.replace("{" + slot + "}", rng.choice(choices))
    return sentence[0].upper() + sentence[1:]


def parts_of(lang):
    """-> topics [(good, bad)], closing sentences and short texts, each (good, bad, middling)."""
    if lang == "en":
        topics = [(t["good"], t["bad"]) for t in (ENGLISH_PARTS[k] for k in ("hotel", "film", "thing"))]
        return topics, ENGLISH_PARTS["close"], ENGLISH_PARTS["short"]
    *topics, close, short = OTHERS[lang]
    topics = [(list(good), list(bad)) for good, bad in topics]
    return topics, [[c] for c in close], [[short[0], short[2]], [short[3]], [short[1]]]


def review(rng, lang):
    """One review and the stars that fit it."""
    topics, close, short = parts_of(lang)
    glue = "" if lang in ("zh", "ja") else " "
    stars = rng.choice([1, 1, 2, 3, 4, 4, 5, 5, 5])
    mood = 0 if stars > 3 else 1 if stars < 3 else 2
    kind = rng.random()
    if kind < 0.10:
        return fill(rng, rng.choice(short[mood])), stars
    good, bad = rng.choice(topics)
    if kind > 0.985:                       # the guest with a lot to say, about everything
        pool, count = [s for g, b in topics for s in g + b], rng.randint(14, 30)
    else:
        pool = {1: bad, 2: bad + good[:1], 3: good + bad, 4: good + bad[:1], 5: good}[stars]
        count = rng.choice([1, 1, 2, 2, 3]) if kind < 0.90 else rng.randint(4, 7)
    sentences = [fill(rng, s) for s in rng.sample(pool, min(count, len(pool)))]
    if rng.random() < 0.45:
        sentences.append(fill(rng, rng.choice(close[mood])))
    if rng.random() < 0.06:
        sentences.append(rng.choice([["😀", "💯", "🧳"], ["👎", "☔️", "😡"], ["🤷", "🏨", "🎬"]][mood]))
    if rng.random() < 0.04 and len(sentences) > 1:
        return sentences[0] + "\n\n" + glue.join(sentences[1:]), stars
    return glue.join(sentences), stars


def rows():
    rng = random.Random(SEED)
    out = []
    for lang, count in [("en", ENGLISH)] + [(lang, EACH_OTHER) for lang in OTHERS]:
        for _ in range(count):
            text, stars = review(rng, lang)
            out.append([lang, stars, text])
    for text in ODD:
        out.append(["und", rng.randint(1, 5), text])
    for _ in range(60):                    # the same review, sent again
        lang, stars, text = rng.choice(out)
        out.append([lang, stars, text])
    out += [["en", rng.randint(1, 5), None] for _ in range(25)]
    rng.shuffle(out)
    start = datetime.date(2023, 1, 1)
    for row in out:
        if rng.random() < 0.07:
            row[1] = None
        row.insert(2, start + datetime.timedelta(days=rng.randrange(1000)))
    return [[i + 1] + row for i, row in enumerate(out)]


def csv_field(value):
    if value is None:
        return ""
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"'
    return str(value)


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    data = rows()
    names = ["id", "lang", "stars", "created", "text"]
    types = [pa.int64(), pa.string(), pa.int32(), pa.date32(), pa.string()]
    schema = pa.schema([pa.field(n, t, nullable=n in ("stars", "text")) for n, t in zip(names, types)])
    table = pa.table([pa.array(column, type=t) for column, t in zip(zip(*data), types)], schema=schema)
    pq.write_table(table, f"{folder}/reviews.parquet", compression="zstd", row_group_size=1024)
    with open(f"{folder}/reviews.csv", "w", encoding="utf-8", newline="") as f:
        f.write(",".join(names) + "\n")
        for row in data:
            f.write(",".join(csv_field(v) for v in row) + "\n")
    print(f"{table.num_rows} rows in {folder}")


if __name__ == "__main__":
    main()
